from tests.service.fixtures import checkpoint

__all__ = ["checkpoint"]
