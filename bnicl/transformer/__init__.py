"""The transformer: how it reads a context, the one class, and the weights of the constructive proof.

encoding         integer states <-> the columns that a transformer reads
model            the one class in which hand-built and trained weights live alike
predictor        a transformer as a predictor
mle_transformer  the constructed transformer as a predictor, and its error bound
construction     the weights of the theorem
"""
