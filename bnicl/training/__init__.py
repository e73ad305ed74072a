"""Training: from a configuration to a transformer with trained weights.

config      what a run depends on, and the recipes that set its defaults
trained     a transformer with trained weights as a predictor
soap        the optimiser of the structure recipe
checkpoint  the file that keeps a run
steps       one step's examples, and their loss
update      one step of the weights; on a GPU recorded once and replayed
processes   several processes that train together
loop        the loop
"""
