"""A Kubernetes cluster to run pipelines on: one that exists, kind, or one built and started here."""
