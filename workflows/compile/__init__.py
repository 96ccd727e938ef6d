"""From a declaration to the files that the back ends read. No running here."""
