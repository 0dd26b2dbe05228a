"""Do engines say the same when nothing is drawn by chance? Greedy answers, token by token.

answers    what was said, from the records of a run       parting    where two answers differ first
bounds     how much rounding alone explains               agreement  both over all prompts, and what is beyond it
of_result  every backend of a result against the reference engine, or the first where that is not in it
"""
