"""Kernels of surgery, fingerprints and log-probabilities, against float64 on the same numbers."""

from collections.abc import Sequence

import torch

from gpu_checks.models import model_config
from gpu_checks.record import GIB, Record, Setting, relative


def kernels(setting: Setting, record: Record) -> None:
    rate = copy_rate(setting, record)
    shapes = ["tiny"] if not setting.on_gpu else ["Qwen2.5-0.5B", "Qwen2.5-1.5B"]
    for shape in shapes[: 1 if setting.quick else 2]:
        columns = columns_of(shape)
        for dtype in (torch.float32, torch.bfloat16):
            for num_domains in (3,) if setting.quick else (2, 3, 8):
                name = f"{shape} {str(dtype)[6:]} D={num_domains}"
                with record.caught(f"surgery {name}"):
                    surgery_kernels(setting, record, name, columns, dtype, num_domains, rate)
    with record.caught("rows beyond 2^31 elements"):
        if setting.on_gpu and not setting.quick:
            long_rows(setting, record)
    with record.caught("fingerprint"):
        fingerprints(setting, record)
    for dtype in (torch.float32, torch.bfloat16):
        with record.caught(f"log-probabilities in chunks {dtype}"):
            token_logprobs(setting, record, dtype)
    with record.caught("LM head"):
        head(setting, record)


def copy_rate(setting: Setting, record: Record) -> float:
    """Bytes per second, read and written, of copying a large buffer."""
    numel = 1 << (30 if setting.on_gpu else 24)
    source = torch.rand(numel, device=setting.device)
    target = torch.empty_like(source)
    rate = 2 * numel * 4 / setting.seconds(lambda: target.copy_(source))
    record.measure("copy", rate / 1e9, "GB/s")
    record.measure("sum", numel * 4 / setting.seconds(source.sum) / 1e9, "GB/s")
    if setting.on_gpu:
        a, b = torch.rand(2, 8192, 8192, device=setting.device).bfloat16()
        spent = setting.seconds(lambda: a @ b)
        record.measure("bfloat16 product 8192^3", 2 * 8192**3 / spent / 1e12, "TFLOP/s")
    return rate


def columns_of(shape: str) -> list[tuple[int, int, int]]:
    """(module, first, end column) of the parameters of a model, laid end to end."""
    from transformers import AutoModelForCausalLM

    from mgsrl.surgery import module_map

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(shape), trust_remote_code=False)
    sizes = {name: param.numel() for name, param in model.named_parameters()}
    module_of = module_map(list(sizes))
    index = {module: i for i, module in enumerate(dict.fromkeys(module_of.values()))}
    columns, end = [], 0
    for name, size in sizes.items():
        columns.append((index[module_of[name]], end, end + size))
        end += size
    return columns


def surgery_kernels(
    setting: Setting,
    record: Record,
    name: str,
    columns: list[tuple[int, int, int]],
    dtype: torch.dtype,
    num_domains: int,
    rate: float,
) -> None:
    from mgsrl.surgery.gramian import combine_, combine_into, gramian

    device, total = setting.device, columns[-1][2]
    rows_DN = torch.empty(num_domains, total, device=device, dtype=dtype).normal_()
    rows_DN[1] += rows_DN[0]  # not orthogonal, or a product of two rows is all rounding
    pieces = [(module, rows_DN[:, a:b]) for module, a, b in columns]
    num_modules = columns[-1][0] + 1
    expected_MDD = exact_gramian(pieces, num_modules)
    found_MDD = gramian(pieces, num_modules).to(device)
    scale_MD = expected_MDD.diagonal(dim1=1, dim2=2).sqrt()
    errors = (found_MDD - expected_MDD).abs() / (scale_MD[:, :, None] * scale_MD[:, None, :])
    record.at_most(f"Gramian {name}: error of a cosine", errors.max().item(), 1e-6)
    size = rows_DN.element_size()
    spent = setting.seconds(lambda: gramian(pieces, num_modules))
    record.measure(f"Gramian {name}", 1e3 * spent, "ms")
    record.measure(f"Gramian {name}: times its reading", spent * rate / (rows_DN.numel() * size))

    weights_MD = torch.rand(num_modules, num_domains, dtype=torch.float64) - 0.25
    expected_N = exact_combination(pieces, weights_MD, total)
    if dtype == torch.float32:
        spent = setting.seconds(lambda: combine_(pieces, torch.ones_like(weights_MD)), 3)
        rows_DN[0] = exact_row(rows_DN, 3 + 2)  # the calls above added the others to it
        combine_(pieces, weights_MD)
        found_N = rows_DN[0]
        moved = (num_domains + 1) * total * size
    else:
        found_N = torch.zeros(total, device=device)
        targets = [found_N[a:b] for _, a, b in columns]
        spent = setting.seconds(lambda: combine_into(pieces, weights_MD, targets), 3)
        moved = (num_domains * size + 4) * total
    record.at_most(f"combination {name}: error", relative(found_N, expected_N), 1e-6)
    record.measure(f"combination {name}", 1e3 * spent, "ms")
    record.measure(f"combination {name}: times its bytes", spent * rate / moved)
    if setting.on_gpu:
        own = setting.kernel_seconds(lambda: gramian(pieces, num_modules))
        record.measure(f"Gramian {name}: kernels alone", 1e3 * own, "ms")
        own = setting.kernel_seconds(lambda: combine_(pieces, torch.ones_like(weights_MD)))
        record.measure(f"combination {name}: kernels alone", 1e3 * own, "ms")


def exact_row(rows_DN: torch.Tensor, times: int) -> torch.Tensor:
    """Row 0 before `times` sums of all rows into it."""
    return rows_DN[0] - times * rows_DN[1:].sum(0)


def exact_gramian(pieces: Sequence[tuple[int, torch.Tensor]], num_modules: int) -> torch.Tensor:
    """Products and sums in float64, pair by pair."""
    num_domains, device = pieces[0][1].shape[0], pieces[0][1].device
    gram_MDD = torch.zeros(num_modules, num_domains, num_domains, device=device).double()
    for module, piece in pieces:
        for part in piece.split(1 << 24, dim=1):
            wide = part.double()
            for d in range(num_domains):
                gram_MDD[module, d] += (wide[d] * wide).sum(1)
    return gram_MDD


def exact_combination(
    pieces: Sequence[tuple[int, torch.Tensor]], weights_MD: torch.Tensor, total: int
) -> torch.Tensor:
    parts = []
    for module, piece in pieces:
        weights = weights_MD[module].to(piece.device)
        parts += [
            sum(w * row.double() for w, row in zip(weights, part)).float()
            for part in piece.split(1 << 24, dim=1)
        ]
    joined = torch.cat(parts)
    assert len(joined) == total
    return joined


def long_rows(setting: Setting, record: Record) -> None:
    """Rows that are further apart than a 32-bit leading dimension of BLAS reaches."""
    from mgsrl.surgery.gramian import combine_, gramian

    total = 2**31 + 2**20
    rows_DN = torch.ones(2, total, device=setting.device)
    pieces = [(0, rows_DN[:, : 2**31 - 5]), (1, rows_DN[:, 2**31 - 5 :])]
    sizes = torch.tensor([2.0**31 - 5, 2**20 + 5], dtype=torch.float64)
    record.at_most(
        "Gramian of rows beyond 2^31 elements: error",
        (gramian(pieces, 2).cpu() - sizes[:, None, None]).abs().max().item(),
        1.0,
    )
    combine_(pieces, torch.tensor([[2.0, 3.0], [1.0, 0.5]], dtype=torch.float64))
    ends = rows_DN[0, [0, 2**31 - 6, 2**31 - 5, total - 1]].tolist()
    record.equal("combination of rows beyond 2^31 elements", ends, [5.0, 5.0, 1.5, 1.5])


def fingerprints(setting: Setting, record: Record) -> None:
    from mgsrl.sync.fingerprint import fingerprint, square_sum

    for dtype in (torch.float32, torch.bfloat16):
        values = torch.randn(1537, 4099, generator=torch.Generator().manual_seed(1)).to(dtype)
        values[3, 5], values[7, 9] = 0.0, 1e-40
        there = values.to(setting.device)
        record.equal(
            f"fingerprint {dtype} is the CPU's",
            fingerprint(there, 3) == fingerprint(values, 3),
            True,
        )
        large = there.repeat(1 if not setting.on_gpu else 64, 1)
        spent = setting.seconds(lambda large=large: int(square_sum(large)), 3)
        rate = large.numel() * large.element_size() / spent
        record.measure(f"fingerprint {dtype}", 1e12 / rate, "ms/GB")


def token_logprobs(setting: Setting, record: Record, dtype: torch.dtype) -> None:
    from mgsrl.learner.forward import TokenLogprobs

    torch.manual_seed(0)
    hidden = torch.randn(301, 64).to(setting.device, dtype)
    weight = torch.randn(5003, 64).div(4).to(setting.device, dtype)
    targets = torch.randint(5003, (301,), device=setting.device)
    outward = torch.randn(2, 301).to(setting.device)

    def gradients(wide: bool, chunk: int) -> list[torch.Tensor]:
        inputs = [t.double() if wide else t.clone() for t in (hidden, weight)]
        inputs = [t.detach().requires_grad_() for t in inputs]
        if wide:
            table = torch.log_softmax(inputs[0] @ inputs[1].T / 0.7, -1)
            logprobs = table.gather(1, targets[:, None]).squeeze(1)
            entropy = -(table.exp() * table).sum(1)
        else:
            logprobs, entropy = TokenLogprobs.apply(*inputs, None, targets, 0.7, chunk)
        grads = torch.autograd.grad((logprobs * outward[0] + entropy * outward[1]).sum(), inputs)
        return [logprobs.detach(), entropy.detach(), *grads]

    expected = gradients(True, 0)
    for chunk in (1000, 64, 7):
        found = gradients(False, chunk)
        for what, a, b in zip(
            ("log-probability", "entropy", "d hidden", "d weight"), found, expected
        ):
            room = 1e-4 if a.dtype == torch.float32 else 1e-2  # outputs are always float32
            record.at_most(f"{what} {str(dtype)[6:]} in chunks of {chunk}", relative(a, b), room)


def head(setting: Setting, record: Record) -> None:
    """Forward and backward of the LM head of Qwen2.5-1.5B on 4096 positions, alone."""
    from mgsrl.learner.forward import CHUNK_ELEMENTS, TokenLogprobs

    positions, width, words = (4096, 1536, 151936) if setting.on_gpu else (64, 64, 3000)
    tensors = {"device": setting.device, "dtype": torch.bfloat16, "requires_grad": True}
    hidden = torch.randn(positions, width, **tensors)
    weight = torch.empty(words, width, **tensors)
    torch.nn.init.normal_(weight, std=0.02)
    targets = torch.randint(words, (positions,), device=setting.device)
    chunk = max(1, CHUNK_ELEMENTS[setting.device.type] // words)

    def both() -> None:
        logprobs, _ = TokenLogprobs.apply(hidden, weight, None, targets, 1.0, chunk)
        torch.autograd.grad(logprobs.sum(), (hidden, weight))

    spent = setting.seconds(both, 3)
    record.measure("LM head forward and backward", 1e3 * spent, "ms")
    rate = 8 * positions * width * words / spent / 1e12  # logits twice, and two gradients
    record.measure("LM head arithmetic", rate, "TFLOP/s")
    if setting.on_gpu:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        both()
        peak = torch.cuda.max_memory_allocated() - before
        record.measure("LM head: memory on top at the peak", peak / GIB, "GiB")
        record.measure("LM head: of that its gradient", weight.numel() * 2 / GIB, "GiB")
