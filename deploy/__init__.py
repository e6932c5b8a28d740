"""What runs beside Shoal: certificates, Prometheus, Grafana."""
