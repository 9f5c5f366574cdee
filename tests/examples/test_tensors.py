from src.examples import tensors


def test_first_program_prints_its_values_and_the_slope(capsys):
    tensors.main([])
    out = capsys.readouterr().out
    assert "x = [1.0, 2.0, 3.0], shape (3,), torch.float32, on cpu" in out
    assert "y = 2x + 1 = [3.0, 5.0, 7.0]" in out
    assert "db/da = 8" in out
