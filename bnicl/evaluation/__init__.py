"""How good a predictor is, and how it works.

evaluate    total variation, regret and accuracy on the same contexts for all
edges       which edges a predictor has found
generation  Algorithm 1 of the paper: new rows, one node after the other
heldout     real rows: how well some predict others
mechanism   interventions: what a transformer's answers depend on
verdicts    where a claim holds, compared with every rival
"""
