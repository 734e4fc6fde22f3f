"""Names of lists and claims, and the hash slots that they fall into."""

from __future__ import annotations

import pytest
from redis.crc import key_slot

from tyk_pump.source.lists import BASE, acl_patterns, claim_key, lists, prefix_fault


def test_the_lists_stand_in_the_reference_order() -> None:
    """22 of them: the base and ten shards, msgpack before protobuf."""
    found = lists("analytics-")
    assert len(found) == 22
    assert found[0].key == "analytics-tyk-system-analytics"
    assert found[1].key == "analytics-tyk-system-analytics_protobuf"
    assert found[2].key == "analytics-tyk-system-analytics_0"
    assert found[-1].key == "analytics-tyk-system-analytics_9_protobuf"
    assert [one.codec for one in found[:2]] == ["msgpack", "protobuf"]


@pytest.mark.parametrize("prefix", ["analytics-", "", "{t}-", "x{t}y", "a{t}{u}"])
def test_a_claim_has_its_lists_slot(prefix: str) -> None:
    """Without that a cluster refuses the rename (CROSSSLOT)."""
    assert prefix_fault(prefix, cluster=True) is None
    for one in lists(prefix):
        claim = claim_key(prefix, one.key, "01X")
        assert key_slot(claim.encode()) == key_slot(one.key.encode())
        assert claim.startswith(prefix)


@pytest.mark.parametrize("prefix", ["a}b", "{}", "a{}b", "}{"])
def test_a_cluster_refuses_a_prefix_without_any_tag(prefix: str) -> None:
    """A single server takes it: the claim just has no braces of ours."""
    assert BASE in (prefix_fault(prefix, cluster=True) or "")
    assert prefix_fault(prefix, cluster=False) is None


def test_glob_characters_of_the_prefix_are_plain_in_the_acl() -> None:
    """An ACL pattern is a glob; the prefix is not."""
    assert acl_patterns("a*[b]")[0] == "~a\\*\\[b\\]*"
