"""The data half: from raw documents to packed rows. Imports nothing of training, evaluation or
orchestration.
"""
