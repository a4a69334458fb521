import pytest

from api.router import Parameter, Router, parameters, plain


@pytest.fixture
def router() -> Router[str]:
    router: Router[str] = Router()
    for method, path in (
        ("GET", "/ships"),
        ("POST", "/ships"),
        ("GET", "/ships/{id}"),
        ("GET", "/ships/flagship"),
        ("GET", "/ships/{id}/crew/{name}"),
        ("GET", "/ships/flagship/log"),
    ):
        router.add(method, path, f"{method} {path}")
    return router


def test_a_fixed_path_is_found_with_all_its_methods(router):
    assert router.find("/ships") == ({"GET": "GET /ships", "POST": "POST /ships"}, [])


def test_values_are_taken_from_the_path(router):
    assert router.find("/ships/42/crew/nemo") == ({"GET": "GET /ships/{id}/crew/{name}"}, ["42", "nemo"])


def test_a_fixed_segment_wins_over_a_varying_one(router):
    assert router.find("/ships/flagship") == ({"GET": "GET /ships/flagship"}, [])


def test_a_fixed_segment_that_leads_nowhere_is_tried_as_a_value(router):
    assert router.find("/ships/flagship/crew/nemo") == ({"GET": "GET /ships/{id}/crew/{name}"}, ["flagship", "nemo"])


@pytest.mark.parametrize(
    "path", ["", "/", "ships", "/ships/", "/ships/42/", "/ships//crew/nemo", "//ships", "/ships/1/crew"]
)
def test_other_paths_are_unknown(router, path):
    assert router.find(path) is None


def test_one_method_of_a_path_is_declared_once(router):
    with pytest.raises(ValueError, match="declared twice"):
        router.add("GET", "/ships", "again")


def test_a_parameter_is_a_whole_segment(router):
    with pytest.raises(ValueError, match="whole segment"):
        router.add("GET", "/ships/no-{id}", "x")


def test_ids_are_uuids_unless_said_otherwise():
    assert parameters("/a/{id}/{ship_id}/{name}/{at:int}/{id:str}") == [
        Parameter("id", "uuid"),
        Parameter("ship_id", "uuid"),
        Parameter("name", "str"),
        Parameter("at", "int"),
        Parameter("id", "str"),
    ]


def test_kinds_are_left_out_of_the_documented_path():
    assert plain("/a/{at:int}/{name}") == "/a/{at}/{name}"
