"""What a flow is made of: Prefect tasks that run one DVC stage each and show what it made, and the runner of their processes."""
