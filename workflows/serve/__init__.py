"""Answers for every decision: a model from a sealed run, served with its reasons, and a log that nobody can thin out unseen."""
