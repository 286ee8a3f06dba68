"""What one GPU can show in two calls of under ten minutes: ``python -m benchmarks.gpu_check``.

Random weights in Qwen2.5-VL's shapes stand in for downloads, so a bare machine will do. Every check is a process of its
own with a time limit; the most telling ones come first. With tiny shapes all of it runs on a CPU.
"""
