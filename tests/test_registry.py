"""Every registry names what can be imported, and nothing else."""

import pytest

from atomlake import clusters, descriptors, sources
from atomlake.registry import Registry


@pytest.mark.parametrize("package", [clusters, descriptors, sources])
def test_every_name_leads_to_a_class(package):
    assert package.names() == sorted(package.names())
    for name in package.names():
        assert isinstance(package.get(name), type)


@pytest.mark.parametrize("package", [clusters, descriptors, sources])
def test_an_unknown_name_is_refused_with_those_there_are(package):
    with pytest.raises(KeyError, match=package.names()[0]):
        package.get("no such thing")


def test_a_class_is_known_by_its_kind():
    assert [descriptors.get(name).kind for name in descriptors.names()] == descriptors.names()


def test_an_attribute_that_is_no_class_of_the_registry_is_refused():
    with pytest.raises(AttributeError):
        descriptors.NoSuchDescriptor  # noqa: B018


def test_installed_packages_add_to_a_registry():
    # any package's console scripts serve as entry points here
    registry = Registry("command", "console_scripts", {})
    assert "atomlake" in registry.names()
    assert callable(registry.get("atomlake"))
