"""The JSON and the query parameters of requests and answers."""
