"""A small world of moving shapes, written in the formats of the real datasets.

sample_scene ──► Scene ──► layouts/*: one writer a format ──► generate: a whole world on disk
                   └────► grammar: expressions that are true of exactly the shapes they name
"""
