from enginebay import get_backend
from enginebay.testing import BackendConformance


class TestEcho(BackendConformance):
    def make_backend(self):
        return get_backend("echo")
