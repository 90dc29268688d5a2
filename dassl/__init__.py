"""A small training engine with Dassl's public names: data sets, data loaders, trainers, optimisers, evaluation.

It knows no CLIP. Data sets and trainers written for Dassl or CoOp import from here unchanged.
"""
