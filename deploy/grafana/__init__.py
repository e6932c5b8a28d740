"""Grafana's data source and dashboards; the JSON is made by `python -m deploy.grafana.make`."""
