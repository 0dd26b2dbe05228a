"""Which of two backends is faster: decided from several starts of each, or not at all.

judge      the door: one result with several backends, or two results
contest    two subjects under one load: which starts count     figures  what is compared, and which way is better
family     all questions of a comparison, and what each answer is worth
why        what the engines tell of the difference             causes   what there is to tell of, and how it is said
words      all of it in sentences                              phrases  figures as a sentence says them
"""
