"""Anchors: where the root of a run is noted outside of its store. One port, a file an adapter."""
