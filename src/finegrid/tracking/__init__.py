"""Dashboards: loggers of live runs and the upload of finished ones."""
