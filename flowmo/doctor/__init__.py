"""What `flowmo doctor` looks at: facts are probed in one file and judged in another."""
