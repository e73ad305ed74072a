"""The setting: discrete Bayesian networks, their tables, and rows drawn from them.

checks    what every public function asks of its input, and the types of contexts and queries
tables    priors over the rows of tables, and the generators from which all chance comes
graph     BayesianNetwork: a graph whose index order is topological, and a table for every node
joint     networks of any graph as tables on the complete graph, and their joint distributions
bif       the interchange format, read by its grammar
writing   files that appear whole or not at all, and networks as BIF
sources   networks by name: the paper's, those that pgmpy ships, and files
sampling  batched forward sampling
"""
