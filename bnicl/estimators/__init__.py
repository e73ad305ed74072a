"""What a context says of the next value: estimators by counting, and exact optima.

counting     MLE, naive frequencies and posterior mean of a known graph; what a predictor is
families     how often each family was seen, for rows by the million
measures     how far one distribution is from another
averages     the optimum for an unknown graph: a sum over parent sets
few_graphs   the optimum for one of a few graphs: a sum over these
orders       the optimum for an unknown order: a sum over orders
graphs       distributions over graphs, and predictors that are given each context's graph
priors       distributions over networks, which know their optimum and their in-context MLE
searches     what practitioners do instead: search one graph, then fit it
incomplete   rows with gaps, by expectation maximisation
elimination  sums of products of tables, for any evidence
inference    P(target | evidence) in a network that was fitted to rows
"""
