"""Square against its published schedule, exact budgets, and linear models whose distances are known."""

import math

import pytest
import torch
from torch import nn

import robustlens as rl
from helpers.linear_models import linear_problem
from robustlens.attacks import Square, moves, square, windows
from robustlens.errors import ConfigError

EPS = {"Linf": 0.1, "L2": 0.6, "L1": 3.0}
NEAR = {"Linf": 0.8, "L2": 0.7, "L1": 0.7}  # of eps: what 1000 queries have to break
norms = pytest.mark.parametrize("norm", EPS)


class Recorder(nn.Module):
    """Asks `model` for logits and keeps what it was asked about, and what it said."""

    def __init__(self, model):
        super().__init__()
        self.model, self.asked, self.said, self.graph = model, [], [], []

    def forward(self, x):
        logits = self.model(x)
        self.asked.append(x.clone())
        self.said.append(logits.clone())
        self.graph.append(torch.is_grad_enabled() or logits.requires_grad)
        return logits


class Immovable(nn.Module):
    """Always sure of class 0, so that every move is taken back."""

    def forward(self, x):
        return torch.tensor([1.0, 0.0], dtype=x.dtype).expand(len(x), 2)


class Unbreakable(nn.Module):
    """Never wrong about class 0, but more or less sure."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) + torch.tensor([20.0, 0.0, 0.0, 0.0], dtype=x.dtype)


def network(*shape, classes=4, dtype=torch.float64):
    torch.manual_seed(1)
    hidden = nn.Linear(math.prod(shape), 32)
    return nn.Sequential(nn.Flatten(), hidden, nn.Tanh(), nn.Linear(32, classes)).to(dtype)


def pictures(n, *shape, dtype=torch.float64):
    """Images of which many pixels are at the box."""
    generator = torch.Generator().manual_seed(2)
    return (torch.rand(n, *shape, generator=generator, dtype=torch.float64) * 1.6 - 0.3).clamp(0, 1).to(dtype)


def extent(changed):
    """Height and width of the box about what has changed, of (h, w) booleans."""
    rows, columns = (torch.nonzero(changed.any(axis)).squeeze(1) for axis in (1, 0))
    return int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1


def margins(recorder, y):
    return torch.stack([rl.losses.margin(logits, y) for logits in recorder.said])


@pytest.mark.parametrize(
    ("queries", "first_moves"),
    [
        (10_000, (11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001)),
        (5000, (6, 26, 101, 251, 501, 1001, 2001, 3001, 4001)),
        (1000, (2, 6, 21, 51, 101, 201, 401, 601, 801)),
    ],
)
def test_the_share_of_pixels_is_halved_where_it_is_published(queries, first_moves):
    assert square.share_at(0, queries) == 0.8
    for halvings, move in enumerate(first_moves):
        assert square.share_at(move - 1, queries) == 0.8 / 2**halvings
        assert square.share_at(move, queries) == 0.8 / 2 ** (halvings + 1)
    assert square.share_at(queries, queries) == 0.8 / 512
    assert square.share_at(first_moves[0], queries, 0.3) == 0.15


def test_windows_are_as_large_as_published():
    mnist, cifar = windows.Grid.of((1, 28, 28)), windows.Grid.of((3, 32, 32))
    shares = [0.8 / 2**i for i in range(10)]
    assert [mnist.side(share) for share in shares] == [25, 18, 13, 9, 6, 4, 3, 2, 2, 1]
    assert [cifar.side(share) for share in shares] == [29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
    assert [windows.Grid.of((3, 50)).side(share) for share in shares[:4]] == [40, 20, 10, 5]
    assert cifar.window(29) == (29, 29)
    assert windows.Grid.of((3, 10, 50)).window(18) == (10, 10)


def test_windows_lie_anywhere_inside_the_image():
    grid, window = windows.Grid.of((3, 8, 12)), (5, 5)
    u = torch.rand(4000, 2)
    u[0], u[1] = 0.0, 1 - 2.0**-24  # the smallest and the largest uniform number
    places, counts = grid.anywhere(u, window).unique(return_counts=True)
    expected = torch.tensor([row * 12 + column for row in range(4) for column in range(8)])
    assert torch.equal(places, expected)
    assert counts.min() > 80  # of 125 each
    pixel = torch.tensor([[0], [2 * 12 + 2], [3 * 12 + 6], [95], [96 + 3 * 12 + 6]])
    assert grid.around(pixel, window).flatten().tolist() == [0, 0, 12 + 4, 3 * 12 + 7, 12 + 4]


def test_the_middle_of_a_window_of_any_shape_is_the_pixel():
    grid = windows.Grid.of((2, 8, 12))
    pixel = torch.tensor([[5 * 12 + 6], [0], [95], [96 + 4 * 12 + 6]])
    for height, width in ((2, 4), (4, 2), (1, 6)):
        expected = [(5 - height // 2) * 12 + 6 - width // 2, 0, (8 - height) * 12 + 12 - width]
        expected.append((4 - height // 2) * 12 + 6 - width // 2)
        assert grid.around(pixel, (height, width)).flatten().tolist() == expected


def test_changed_pixels_are_drawn_alike():
    x = torch.zeros(2, 2, 3, 3)
    x_adv = x.clone()
    x_adv[0, 1, 0, 2] = x_adv[0, 1, 2, 1] = 1
    drawn = moves._changed(x, x_adv, torch.linspace(0, 1 - 2.0**-24, 10).expand(2, 10))
    assert drawn[0].tolist() == [11] * 5 + [16] * 5
    assert (drawn[1] < 18).all()  # nothing changed: anything inside the image


def test_linf_starts_from_vertical_stripes_and_stays_at_corners():
    x, y = pictures(5, 3, 8, 8), torch.zeros(5, dtype=torch.int64)
    model = Recorder(Unbreakable(network(3, 8, 8)))
    Square(rl.ThreatModel("Linf", 0.01), 200)(model, x, y)
    clean, start, *tried = model.asked
    assert torch.equal(clean, x)
    inside = (x > 0.01) & (x < 0.99)
    stripes = torch.where(inside, (start - x).sign(), torch.nan)
    up, down = (stripes == 1).any(2), (stripes == -1).any(2)
    assert not (up & down).any()  # one sign in each column
    assert up.any()
    assert down.any()
    assert not torch.equal(up[:, 0], up[:, 1])  # of its own in each channel
    for x_adv in tried:
        corner = ((x_adv - x).abs() - 0.01).abs() < 1e-15
        assert (corner | (x_adv == 0) | (x_adv == 1)).all()


def test_each_linf_move_is_one_window_of_the_scheduled_side_in_one_sign_a_channel():
    x, queries = torch.full((6, 2, 28, 28), 0.5), 1000
    x[:, 0, 0, 0] += torch.arange(6) / 100  # else they are one image, with one image's noise
    model = Recorder(Immovable())
    Square(rl.ThreatModel("Linf", 0.1), queries)(model, x, torch.zeros(6, dtype=torch.int64))
    _, start, *tried = model.asked
    assert len(tried) == queries - 1
    corners = set()
    for move in [*range(25), 60, 150, 300, 500, 700, *range(801, 999)]:
        side = round(math.sqrt(square.share_at(move, queries) * 28 * 28))
        for image, before in zip(tried[move], start, strict=True):
            changed = image != before
            assert changed.any(), "a query that asks about the kept point again is wasted"
            height, width = extent(changed.any(0))
            assert height == side  # stripes are vertical: where a column changes, all of it does
            assert width <= side
            signs = [(channel - 0.55).sign()[where] for channel, where in zip(image, changed, strict=True)]
            assert all(len(sign.unique()) <= 1 for sign in signs)
            if side == 1:
                corners.add(int(torch.nonzero(changed.any(0).flatten())[0]))
    assert {0, 27, 27 * 28, 28 * 28 - 1} & corners, "windows reach the last row and column"
    assert len(corners) > 500


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_bumps_at_the_start_are_turned_either_way_and_leave_an_even_edge(norm):
    """Of 29 x 27 pixels: five by five bumps of five by five pixels, two lines left above and below, one beside."""
    x = torch.full((20, 1, 29, 27), 0.5, dtype=torch.float64)
    x[:, 0, 0, 0] += torch.arange(20) / 100  # else they are one image, with one image's noise
    model = Recorder(Immovable())
    Square(rl.ThreatModel(norm, 1e-3), 1)(model, x, torch.zeros(20, dtype=torch.int64))
    change = (model.asked[1] - x)[:, 0]
    assert (change != 0)[:, 2:27, 1:26].all()
    assert (change != 0).sum() == 20 * 25**2
    tiles = change[:, 2:27, 1:26].unflatten(2, (5, 5)).unflatten(1, (5, 5)).transpose(2, 3).sign()
    assert tiles.shape == (20, 5, 5, 5, 5)
    beside = (tiles == tiles[..., :1, :]).all(-1).all(-1)  # the signs of all lines agree
    above = (tiles == tiles[..., :1]).all(-1).all(-1)
    assert (beside ^ above).all()
    assert 0.4 < beside.float().mean() < 0.6
    assert 0.4 < (tiles[..., 0, 0] > 0).float().mean() < 0.6


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_a_change_has_norm_1_in_every_channel_of_every_image(norm):
    bumps = moves._Bumps(rl.ThreatModel(norm, 1.0), windows.Grid.of((2, 1, 2)))
    change = torch.tensor([[[3.0, -4.0], [0.0, 0.0]], [[0.0, 2.0], [6.0, 8.0]]])
    size = {"L2": [[5.0, 1.0], [2.0, 10.0]], "L1": [[7.0, 1.0], [2.0, 14.0]]}[norm]
    torch.testing.assert_close(bumps._unit(change), change / torch.tensor(size)[:, :, None])


@norms
def test_every_point_asked_about_uses_the_ball_up_and_never_leaves_it(norm):
    # In float32, where a point on the sphere may be rounded to the wrong side of it.
    x = pictures(20, 3, 10, 10, dtype=torch.float32)
    model = Recorder(Immovable())
    threat = rl.ThreatModel(norm, EPS[norm])
    Square(threat, 300)(model, x, torch.zeros(20, dtype=torch.int64))
    assert len(model.asked) == 301
    for x_adv in model.asked[1:]:
        far = threat.distance(x_adv.double(), x.double())
        assert (far <= EPS[norm] + (1e-7 if norm == "Linf" else 0)).all()
        assert (far >= EPS[norm] * (1 - 1e-5)).all()
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1


@norms
def test_budgets_stay_exact_over_many_kept_moves(norm):
    x = pictures(8, 3, 9, 9, dtype=torch.float32)
    model, threat = Unbreakable(network(3, 9, 9, dtype=torch.float32)), rl.ThreatModel(norm, EPS[norm])
    x_adv = Square(threat, 600)(model, x, torch.zeros(8, dtype=torch.int64))
    far = threat.distance(x_adv.double(), x.double())
    assert (far <= threat.eps + (1e-7 if norm == "Linf" else 0)).all()
    assert (far >= threat.eps * (1 - 1e-4)).all()


def test_l1_perturbations_are_sparse_and_moves_still_have_something_to_clear():
    x, y = 0.25 + pictures(6, 1, 20, 20) / 2, torch.zeros(6, dtype=torch.int64)
    model = Recorder(Unbreakable(network(1, 20, 20)))
    Square(rl.ThreatModel("L1", 4.0), 300)(model, x, y)
    (_, best, *tried), (_, value, *reached) = model.asked, margins(model, y)
    cleared = []
    for candidate, now in zip(tried, reached, strict=True):
        cleared.append(((best != x) & (candidate == x)).flatten(1).any(1))
        best = torch.where((now > value)[:, None, None, None], candidate, best)
        value = value.maximum(now)
    assert (best != x).flatten(1).sum(1).max() < 60  # of 400
    assert torch.stack(cleared[100:]).double().mean() > 0.9


@pytest.mark.parametrize(("norm", "eps"), [("L2", 4.4), ("L1", 30.0)])
def test_budget_that_the_box_left_unused_is_used_by_later_moves(norm, eps):
    # Pixels have a room of 0.3 or 0.7, so that the start, whose signs are random, has too little of it.
    x = torch.where(pictures(4, 1, 7, 7) > 0.5, 0.7, 0.3).double()
    model, threat = Recorder(Immovable()), rl.ThreatModel(norm, eps)
    Square(threat, 100)(model, x, torch.zeros(4, dtype=torch.int64))
    start, *tried = (threat.distance(x_adv, x) for x_adv in model.asked[1:])
    assert (start < eps - 0.1).all()
    assert (torch.stack(tried).amax(0) > start + 0.02).all()


@norms
def test_the_search_goes_on_from_the_best_point_so_far_and_returns_it(norm):
    x, y = pictures(6, 2, 12, 12), torch.zeros(6, dtype=torch.int64)
    model = Recorder(Unbreakable(network(2, 12, 12)))
    x_adv = Square(rl.ThreatModel(norm, EPS[norm]), 120)(model, x, y)
    values, (_, best, *tried) = margins(model, y), model.asked
    value = values[1]
    improved = torch.zeros(len(x), dtype=torch.bool)
    for move, (candidate, reached) in enumerate(zip(tried, values[2:], strict=True)):
        side = windows.Grid.of((2, 12, 12)).side(square.share_at(move, 120))
        side, number = (max(side, 1), 1) if norm == "Linf" else (max(3, side // 2 * 2 + 1), 2)
        changed = (candidate != best).any(1).sum((1, 2))
        assert (changed <= number * side**2).all()
        better = reached > value
        best, value = torch.where(better[:, None, None, None], candidate, best), value.maximum(reached)
        improved |= better
    assert improved.all()
    torch.testing.assert_close(rl.losses.margin(model.model(x_adv), y), value, rtol=0, atol=1e-12)
    assert torch.equal(x_adv, best)


def test_it_asks_once_a_query_and_never_again_about_what_is_broken():
    torch.manual_seed(0)
    x, queries = pictures(40, 1, 8, 8), 300
    model = Recorder(network(1, 8, 8))
    y = model.model(x).argmax(1)
    y[:3] = (y[:3] + 1) % 4  # wrong from the first
    x_adv = Square(rl.ThreatModel("Linf", 0.05), queries)(model, x, y)
    broken = model.model(x_adv).argmax(1) != y
    assert 5 < int(broken.sum()) < 40
    sizes = [len(x_adv) for x_adv in model.asked]
    assert len(sizes) == queries + 1
    assert sizes[:2] == [40, 37]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] - 40 + int(broken.sum()) in (0, 1)  # the last query may have broken one more
    assert torch.equal(x_adv[:3], x[:3])
    assert not any(model.graph)


@norms
@pytest.mark.parametrize("at_once", [2, 9, 40, 64, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_several_queries_in_one_pass_find_what_one_after_the_other_finds(norm, at_once, dtype):
    x, plain = pictures(12, 2, 9, 9, dtype=dtype), network(2, 9, 9, dtype=dtype)
    y = plain(x).argmax(1)
    y[0] = (y[0] + 1) % 4
    threat = rl.ThreatModel(norm, EPS[norm] / 3)
    alone, together = Recorder(plain), Recorder(plain)
    wanted = Square(threat, 250, at_once=1)(alone, x, y)
    x_adv = Square(threat, 250, at_once=at_once)(together, x, y)
    assert torch.equal(x_adv, wanted)
    broken = plain(x_adv).argmax(1) != y
    assert 2 <= int(broken.sum()) <= 10
    largest = max(len(asked) for asked in together.asked[1:])
    assert largest <= max(at_once, 11)
    points = [
        {point.numpy().tobytes() for asked in each.asked for point in asked} for each in (alone, together)
    ]
    assert points[0] <= points[1]
    if at_once < 12:  # where few are left, two queries fit at once
        assert len(together.asked) <= len(alone.asked)
    else:
        assert len(together.asked) < len(alone.asked) * 2 / 3
        assert sum(map(len, together.asked)) < 2 * sum(map(len, alone.asked))


@norms
def test_where_every_move_is_kept_looking_ahead_costs_half_as_many_points_again_at_most(norm):
    """The margin shrinks at every pass, so that of each image's moves the first alone counts."""

    class Yielding(nn.Module):
        def __init__(self):
            super().__init__()
            self.asked = []

        def forward(self, x):
            self.asked.append(len(x))
            return torch.tensor([[1e6 - sum(self.asked), 0.0]], dtype=x.dtype).expand(len(x), 2)

    x, model = pictures(3, 1, 8, 8), Yielding()
    Square(rl.ThreatModel(norm, EPS[norm]), 200, at_once=1000)(model, x, torch.zeros(3, dtype=torch.int64))
    assert sum(model.asked) < 1.6 * 3 * 200


def test_a_cpu_asks_one_after_the_other_unless_told_otherwise():
    x, y = pictures(8, 1, 8, 8), torch.zeros(8, dtype=torch.int64)
    attack = Square(rl.ThreatModel("Linf", 0.05), 1000)
    sizes = []
    for each in (attack, attack.filling(64), Square(attack.threat, 1000, at_once=1).filling(64)):
        model = Recorder(Immovable())
        each(model, x, y)
        sizes.append([len(asked) for asked in model.asked])
    assert sizes[0] == sizes[2] == [8] * 1001
    assert max(sizes[1]) == 64
    assert sum(sizes[1]) == 8 * 1001  # nothing is kept, so nothing is asked about again
    assert len(sizes[1]) < 1001 / 5


def test_it_stops_when_all_are_broken():
    model = Recorder(network(1, 8, 8))
    x = pictures(10, 1, 8, 8)
    y = model.model(x).argmax(1)
    x_adv = Square(rl.ThreatModel("Linf", 0.9), 1000)(model, x, y)
    assert (model.model(x_adv).argmax(1) != y).all()
    assert len(model.asked) < 500


@norms
@pytest.mark.parametrize(("shape", "classes"), [((36,), 2), ((2, 18), 5), ((1, 6, 6), 2)])
def test_on_linear_models_it_breaks_what_is_near_and_nothing_that_is_robust(norm, shape, classes):
    problem = linear_problem(36, classes, n=40, seed=3)
    x, model = problem.x.view(-1, *shape), nn.Sequential(nn.Flatten(), problem.model)
    distances = problem.distances(norm)
    eps = float(distances[distances.isfinite()].median())
    x_adv = Square(rl.ThreatModel(norm, eps), 1000)(model, x, problem.y)
    broken = model(x_adv).argmax(1) != problem.y
    assert not (broken & (distances > eps * (1 + 1e-9))).any()
    near = distances < NEAR[norm] * eps
    assert near.sum() >= 5
    assert broken[near].all()


@norms
def test_it_breaks_a_model_that_hides_its_gradient(norm):
    class Quantised(nn.Module):
        """Rounds its input, so that its gradient is zero wherever there is one."""

        def __init__(self):
            super().__init__()
            self.model = network(1, 8, 8)

        def forward(self, x):
            return self.model((x * 64).round() / 64)

    x, threat = pictures(30, 1, 8, 8), rl.ThreatModel(norm, EPS[norm] * 1.5)
    model = Quantised()
    y = model(x).argmax(1)
    by_gradient = rl.attacks.PGD(threat, steps=50, random_start=False)(model, x, y)
    by_scores = Square(threat, 300)(model, x, y)
    assert torch.equal(by_gradient, x)
    assert (model(by_scores).argmax(1) != y).float().mean() > 0.5


def test_restarts_are_tries_of_their_own_that_only_ever_help():
    x, model = pictures(60, 1, 8, 8), network(1, 8, 8)
    y, attack = model(x).argmax(1), Square(rl.ThreatModel("Linf", 0.04), 30)
    first, second = (one(model, x, y) for one in Square(attack.threat, 30, restarts=2).tries())
    assert torch.equal(first, attack(model, x, y))
    assert not torch.equal(first, second)
    stands = [model(x_adv).argmax(1) == y for x_adv in (first, second)]
    both = Square(attack.threat, 30, restarts=2)(model, x, y)
    assert torch.equal(model(both).argmax(1) == y, stands[0] & stands[1])
    assert 0 < int((stands[0] & stands[1]).sum()) < int(stands[0].sum())
    assert not torch.equal(first, Square(attack.threat, 30, seed=1)(model, x, y))


@norms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape",
    [(1,), (2,), (7,), (3, 9), (3, 1), (1, 1, 1), (1, 2, 2), (2, 5, 9), (2, 1, 9), (2, 9, 1), (2, 3, 8, 8)],
)
def test_any_shape_and_bounds(shape, dtype, norm):
    low, high = -1.0, 3.0
    x, model = low + (high - low) * pictures(6, *shape, dtype=dtype), network(*shape, dtype=dtype)
    threat = rl.ThreatModel(norm, EPS[norm], (low, high))
    x_adv = Square(threat, 40)(model, x, model(x).argmax(1))
    assert x_adv.shape == x.shape
    assert x_adv.dtype == dtype
    assert x_adv.min() >= low
    assert x_adv.max() <= high
    assert (
        threat.distance(x_adv.double(), x.double()) <= threat.eps + (1e-6 if norm == "Linf" else 1e-12)
    ).all()
    assert not torch.equal(x_adv, x)


def test_an_image_of_one_line_is_searched_as_a_line():
    x, y = pictures(5, 2, 30), torch.zeros(5, dtype=torch.int64)
    asked = []
    for shape in ((2, 30), (2, 1, 30), (2, 30, 1)):
        model = Recorder(Immovable())
        Square(rl.ThreatModel("L2", 0.5), 50)(model, x.view(-1, *shape), y)
        asked.append([each.flatten(1) for each in model.asked[1:]])
    for line, row, column in zip(*asked, strict=True):
        # Keys are of the content alone, so the random numbers are the same.
        assert torch.equal(line, row)
        assert torch.equal(line, column)


@norms
def test_nan_logits_are_a_success_with_a_finite_image(norm):
    class Nan(nn.Module):
        """Sure of class 0 at x, NaN where the image is another."""

        def forward(self, x):
            moved = (x - 0.5).abs().flatten(1).amax(1) > 0
            return torch.where(moved[:, None], torch.nan, torch.tensor([[1.0, 0.0]]))

    x, y = torch.full((3, 1, 6, 6), 0.5), torch.zeros(3, dtype=torch.int64)
    x_adv = Square(rl.ThreatModel(norm, EPS[norm]), 10)(Nan(), x, y)
    assert torch.isfinite(x_adv).all()
    assert (x_adv != x).flatten(1).any(1).all()


def test_bumps_are_as_published():
    # Rows of 1 and of 2, of a window of 3: 1/1 + 1/4 in the middle, 1/4 around it.
    top, rest = torch.tensor([[1, 5, 1]]) / 4, -torch.tensor([[1, 1, 1], [1, 5, 1]]) / 4
    expected = torch.cat([top / top.norm(), rest / rest.norm()]).double() / math.sqrt(2)
    beside, above = windows.bumps_of((3, 3), 2, torch.device("cpu")).view(2, 3, 3)
    torch.testing.assert_close(above, expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(beside, expected.T, rtol=0, atol=1e-7)
    top, rest = torch.tensor([[1, 17, 1]]) / 16, -torch.tensor([[1, 1, 1], [1, 17, 1]]) / 16
    expected = torch.cat([top / top.sum(), rest / rest.abs().sum()]).double() / 2
    torch.testing.assert_close(
        windows.bumps_of((3, 3), 1, torch.device("cpu"))[1].view(3, 3), expected, rtol=0, atol=1e-7
    )
    line = windows.bumps_of((1, 5), 2, torch.device("cpu"))
    assert line.shape == (1, 5)
    assert (line[0, :2] > 0).all()
    assert (line[0, 2:] < 0).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"queries": 0}, "queries 0"),
        ({"restarts": 0}, "restarts 0"),
        ({"at_once": 0}, "at_once 0"),
        ({"share": 0.0}, "attack.share: found 0.0"),
        ({"share": 1.5}, "attack.share: found 1.5"),
        ({"threat": rl.ThreatModel("L2", math.inf)}, "finite radius"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(options, said):
    with pytest.raises(ConfigError, match=said) as caught:
        Square(**{"threat": rl.ThreatModel("Linf", 0.1)} | options)
    assert "\n" not in str(caught.value)


def test_by_name_steps_are_queries():
    threat = rl.ThreatModel("Linf", 0.1)
    assert rl.attacks.get("square", threat, seed=3) == Square(threat, 5000, seed=3)
    assert rl.attacks.get("square-500", threat, restarts=2) == Square(threat, 500, restarts=2)
    assert Square.uses_gradients is False
