"""The operator's tool: threshold statistics (pure) and the pages that use them."""
