"""Several processes: ranks that wait in vain, peers that went away, ports. Mostly symptoms of something else."""

from __future__ import annotations

from harness.judge.causes.cause import Level, cause
from harness.judge.causes.matchers import raised, said

# glog's prefix of torch's C++ messages: [E1218 20:27:21.426415540 ProcessGroupNCCL.cpp:629]
_NCCL_LOG = r"\[E\d{3,4} [\d:.]+ ProcessGroupNCCL\.cpp:\d+\] "

CAUSES = (
    cause(
        "nccl-timeout",
        "the ranks waited for one another in vain",
        "各进程互相等待超时",
        level=Level.SYMPTOM,
        fix=(
            "find the rank that did not come (the first error of any rank in the log); if none failed, check the network: NCCL_DEBUG=INFO",
            "找出没有参与通信的进程（日志中最早的错误）；若都没有错误，用 NCCL_DEBUG=INFO 检查网络",
        ),
        by=(
            said(
                _NCCL_LOG
                + r".*(?:Watchdog caught collective operation timeout|Some NCCL operations have failed or timed out)"
            ),
            raised(
                r"DistBackendError|DistStoreError|RuntimeError|DistError",
                r"Watchdog caught collective operation timeout|Timed out waiting \d+ms for (?:recv|send) operation|wait timeout after \d+ms",
            ),
        ),
    ),
    cause(
        "rendezvous",
        "the processes did not find one another when they started",
        "各进程启动时未能互相建立连接",
        level=Level.SYMPTOM,
        fix=(
            "check that every rank was started and can reach MASTER_ADDR and its port (firewall, wrong interface: GLOO_SOCKET_IFNAME)",
            "确认所有进程都已启动，并能访问 MASTER_ADDR 及其端口（防火墙、网卡选择：GLOO_SOCKET_IFNAME）",
        ),
        by=(
            raised(
                r"Dist\w*Error|RuntimeError|TimeoutError",
                r"client socket has (?:timed out after|failed to connect)|Timed out after \d+ seconds waiting for clients"
                r"|network addresses of .* cannot be retrieved",
            ),
            raised(r"RendezvousTimeoutError|RendezvousConnectionError"),
        ),
    ),
    cause(
        "peer-lost",
        "a process lost its connection to another one, which had ended before",
        "进程与另一个已结束的进程断开了连接",
        level=Level.SYMPTOM,
        fix=(
            "find out why the other process ended: see the first error in time, also in other logs of the run",
            "查明另一进程结束的原因：查看最早的错误，包括该运行的其他日志",
        ),
        by=(
            raised(r"ConnectionResetError|ConnectionAbortedError"),
            raised(
                r"DistBackendError|DistStoreError|DistNetworkError|RuntimeError|DistError",
                r"remote process exited or there was a network error|Connection closed by (?:remote )?peer|Connection reset by peer"
                r"|NCCL communicator was aborted|failed to recv, got 0 bytes|Connection closed by localRank|Broken pipe",
            ),
        ),
    ),
    cause(
        "nccl-network",
        "NCCL could not use the node's network",
        "NCCL 无法使用节点网络",
        level=Level.SYMPTOM,
        fix=(
            "set NCCL_DEBUG=INFO and see which interface it chose; name the right one with NCCL_SOCKET_IFNAME or NCCL_IB_HCA",
            "设置 NCCL_DEBUG=INFO 查看所选网卡，并用 NCCL_SOCKET_IFNAME 或 NCCL_IB_HCA 指定正确的网卡",
        ),
        by=(
            raised(
                r"DistBackendError|RuntimeError",
                r"^(?!.*(?:shared memory segment|out of memory)).*(?:ncclSystemError: System call|Bootstrap : no socket interface found)",
            ),
        ),
    ),
    cause(
        "port-in-use",
        "the port is taken by another program on the node",
        "端口已被节点上的其他程序占用",
        fix=(
            "choose a free port (torchrun --standalone, --master_port=0, or --port 0), never a fixed one on a shared node",
            "使用空闲端口（torchrun --standalone、--master_port=0 或 --port 0），在共享节点上不要使用固定端口",
        ),
        by=(
            raised(
                r"OSError|Dist\w*Error|RuntimeError|SystemError", r"\[Errno 98\]|EADDRINUSE|(?i:address already in use)"
            ),
            said(r"ERROR:\s+\[Errno 98\] error while attempting to bind on address"),
            said(r"\[C [^\]]+\] ERROR: the (?:Jupyter|notebook) server could not be started because no available port"),
        ),
    ),
)
