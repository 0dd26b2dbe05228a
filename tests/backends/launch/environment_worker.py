import os


def say_environment(channel: object) -> None:
    for name, value in os.environ.items():
        print(f"{name}={value}")
