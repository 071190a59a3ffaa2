"""The data half: from raw documents to packed rows. May import `core`, and nothing of
training, evaluation or orchestration.
"""
