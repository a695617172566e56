"""One training run: components, LightningModule, callbacks, record."""
