"""Where data comes from: files, S3, SQL behind one port. Each hands over bytes, which are digested and kept before a step sees them."""
