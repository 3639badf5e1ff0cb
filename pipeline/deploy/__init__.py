"""Write what runs the nights elsewhere: Kubernetes, Airflow, systemd, Prometheus, Grafana."""
