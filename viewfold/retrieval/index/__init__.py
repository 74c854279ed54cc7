"""Vectors to index bundles: chosen, built under a memory cap, opened, changed, exchanged. Only here is FAISS met."""
