"""The project: a command line, a LightningModule, nets, data and callbacks."""
