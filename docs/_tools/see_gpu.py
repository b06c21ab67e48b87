"""Which GPU Keras sees, in a sentence; or the reason to stop before hours on a CPU."""

import keras

from kdcore._provenance import accelerators


def main() -> None:
    backend, found = keras.backend.backend(), accelerators()
    if not found:
        raise SystemExit(
            f"Keras ({backend}) sees no GPU here. NVIDIA's driver must be there (does `nvidia-smi` "
            "name a card?) and no CUDA_VISIBLE_DEVICES hide it. Without --gpu the CPU trains."
        )
    print(f"Keras ({backend}) sees {len(found)} GPU: {', '.join(found)}.", flush=True)


if __name__ == "__main__":
    main()
