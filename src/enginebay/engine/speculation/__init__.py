"""Speculative decoding: cheap guesses at the tokens to come, all checked in one forward pass.

speculator.py     who drafts how much in a step: it adds drafts to a plan, and hears what became of them
draft_length.py   how many tokens are worth drafting for a request, from how its drafts went
proposer.py       what proposes drafts: ngram.py (the text itself), draft_model.py (a smaller model)
verification.py   which drafts are kept, so that the output is what it would have been without them
"""
