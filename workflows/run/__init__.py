"""How a declared task is run: the driver, the stores, the runners."""
