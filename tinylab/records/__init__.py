"""What is written and read back: documents, tables, manifests, identities, checkpoints."""
