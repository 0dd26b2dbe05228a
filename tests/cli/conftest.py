from fake_plugins import echo_plugin

__all__ = ["echo_plugin"]
