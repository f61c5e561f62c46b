"""The same tasks in other suites: adapters alone; questions, prompts and judges are the harness's own."""
