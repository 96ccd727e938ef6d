"""How a model reaches an environment: who must consent, what is checked, what is recorded, how it gets there and back."""
