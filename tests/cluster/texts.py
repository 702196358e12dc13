"""The configuration files of the test cluster, one function a text."""

from __future__ import annotations

import os
from pathlib import Path

from tests.cluster.layout import GRACE_SECONDS, Layout


def slurm_conf(layout: Layout) -> str:
    """What clients and daemons share.

    Every node is 127.0.0.1 with a port of its own. Other loopback addresses do not do: a step's daemon answers srun
    at the address that srun's connection came from, which is always 127.0.0.1, and the step would hang.
    """
    folder = layout.folder
    first, last = layout.node_ports
    per_cpu = layout.memory_mib // layout.cpus
    return f"""\
ClusterName=imdmtest
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={layout.port}
SlurmUser=root
SlurmdUser=root

StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={layout.pid_file("slurmctld")}
SlurmdPidFile={layout.pid_file("%n")}
SlurmctldLogFile={layout.logs}/slurmctld.log
SlurmdLogFile={layout.logs}/%n.log

# A requeued job waits for cred_expire seconds before it may start again: 120 unless told, 5 at the least.
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket},cred_expire=5
CredType=cred/munge

# The accounting plugin does not heed AuthInfo: it takes the socket from the password.
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={layout.accounting_port}
AccountingStoragePass={layout.munge_socket}
JobAcctGatherType=jobacct_gather/none

# Nothing that needs cgroups; config_overrides allows more processors than the host has. NO_CONF_HASH: the daemons'
# file differs from the clients' on purpose.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SlurmdParameters=config_overrides
DebugFlags=NO_CONF_HASH

SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2

# As at large sites: a preempted job gets the signal that it asked for by --signal, and GraceTime seconds.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1

# Short times, so that tests of lost nodes are. A node set down by scontrol stays down until it is resumed, one that
# did not answer returns by itself.
KillWait=5
SlurmdTimeout=15
ReturnToService=1
# Ended jobs stay visible to scontrol for this many seconds.
MinJobAge=3600

GresTypes=gpu
NodeName=node[1-{layout.nodes}] NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={layout.cpus} \
CoresPerSocket={layout.cpus} RealMemory={layout.memory_mib} Gres=gpu:{layout.gpus}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefMemPerCPU={per_cpu} PriorityTier=1 \
GraceTime={GRACE_SECONDS}
PartitionName=urgent Nodes=ALL MaxTime=INFINITE DefMemPerCPU={per_cpu} PriorityTier=10 PreemptMode=OFF
"""


def daemon_conf(layout: Layout) -> str:
    """slurm.conf for daemons: they listen at the address of their own host name, 127.0.0.1, and nowhere else.

    Not for clients: the host's own name may stand for another address, at which no task would find srun.
    """
    return f"""\
include {layout.client_conf}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
"""


def gres_conf(layout: Layout) -> str:
    """The GPUs: slurmd counts only those with a device file, and wants a character device."""
    return f"""\
AutoDetect=off
NodeName=node[1-{layout.nodes}] Name=gpu File={layout.folder}/dev/gpu[0-{layout.gpus - 1}]
"""


def slurmdbd_conf(layout: Layout) -> str:
    return f"""\
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={layout.accounting_port}
CommunicationParameters=NoInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
PidFile={layout.pid_file("slurmdbd")}
LogFile={layout.logs}/slurmdbd.log
StorageType=accounting_storage/mysql
StorageUser=root
StorageLoc=slurm
"""


def write_texts(layout: Layout) -> None:
    """Write all of them, and the devices that the GPUs stand for."""
    devices = layout.folder / "dev"
    devices.mkdir(exist_ok=True)
    for number in range(layout.gpus):
        device = devices / f"gpu{number}"
        if not device.is_symlink():
            device.symlink_to("/dev/null")
    _write(layout.client_conf, slurm_conf(layout))
    _write(layout.daemon_conf, daemon_conf(layout))
    _write(layout.folder / "gres.conf", gres_conf(layout))
    _write(layout.accounting_conf, slurmdbd_conf(layout), mode=0o600)  # slurmdbd refuses one that others may read


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text, encoding="utf-8")
    os.chmod(path, mode)
