"""How a model reaches an environment."""
