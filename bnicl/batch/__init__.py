"""Chapters as programs: parameters, runs, sweeps, and tables with their provenance.

parameters  chapters, their typed parameters, and the profiles
kernels     kernels for runs
staleness   digests of what a chapter's tables depend on
runs        one run of a chapter is a folder with a manifest
cluster     many runs at once, by Dask
sweeps      one file describes many runs
tables      the table of a sweep, with the provenance of each row
"""
