"""Where weights come from: a named model, the Hugging Face hub, a directory. All end as one directory.

Nothing heavy is imported here: `enginebay.models.sources.resolve_model` is the door.
"""
