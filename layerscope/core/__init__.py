"""The core: any network, its checkpoints and data in, the Dataset out."""
