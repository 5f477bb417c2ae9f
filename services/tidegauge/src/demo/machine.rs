//! Real measurements of this machine, once a second.

use std::time::Duration;

use sysinfo::{Disks, Networks, Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tidegauge_client::{Client, ColumnsBuilder, ProducerOptions};
use tidegauge_core::clock::{Clock as _, SystemClock};
use tokio_util::sync::CancellationToken;

use super::feed::{Measurement, send};
use crate::failure::{Failure, Outcome};

const INTERVAL: Duration = Duration::from_secs(1);
/// Disks and network interfaces shown; a machine with hundreds of mounts is no better demo.
const DEVICES_MAX: usize = 8;

/// Feeds the client's tenant until told to stop.
///
/// # Errors
/// When the producer has failed for good.
pub(super) async fn feed(client: Client, stop: CancellationToken) -> Outcome {
    let mut producer = client.producer(ProducerOptions::default());
    let mut builder = ColumnsBuilder::new();
    let mut machine = Some(Box::new(Machine::new()));
    let clock = SystemClock::default();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
        let Some(mut reader) = machine.take() else { break };
        let now_ns = clock.wall_ns();
        // Reading the operating system's tables blocks.
        let read = tokio::task::spawn_blocking(move || {
            let measurements = reader.read(now_ns);
            (reader, measurements)
        });
        let (reader, measurements) = read.await.map_err(|e| Failure::new(format!("measuring this machine: {e}")))?;
        machine = Some(reader);
        send(&mut producer, &mut builder, "sysinfo", &measurements).await?;
    }
    producer.close().await?;
    Ok(())
}

struct Machine {
    host: String,
    pid: Pid,
    system: System,
    disks: Disks,
    networks: Networks,
}

impl Machine {
    fn new() -> Self {
        Self {
            host: System::host_name().unwrap_or_else(|| "this-machine".to_owned()),
            pid: Pid::from_u32(std::process::id()),
            system: System::new(),
            disks: Disks::new_with_refreshed_list(),
            networks: Networks::new_with_refreshed_list(),
        }
    }

    fn read(&mut self, time_ns: i64) -> Vec<Measurement> {
        self.system.refresh_cpu_usage();
        self.system.refresh_memory();
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
        self.system.refresh_processes_specifics(ProcessesToUpdate::Some(&[self.pid]), false, what);
        self.disks.refresh(true);
        self.networks.refresh(true);

        let mut found = Vec::new();
        let host = &self.host;
        let mut add = |metric: &str, value: f64, dimension: Option<(&'static str, &str)>| {
            let mut dimensions = vec![("host", host.clone())];
            dimensions.extend(dimension.map(|(key, value)| (key, value.to_owned())));
            found.push(Measurement { metric: metric.to_owned(), value, time_ns, dimensions });
        };
        add("cpu.usage_percent", f64::from(self.system.global_cpu_usage()), None);
        for cpu in self.system.cpus() {
            add("cpu.core_usage_percent", f64::from(cpu.cpu_usage()), Some(("cpu", cpu.name())));
        }
        let load = System::load_average();
        add("cpu.load_1m", load.one, None);
        add("memory.used_bytes", self.system.used_memory() as f64, None);
        add("memory.available_bytes", self.system.available_memory() as f64, None);
        add("memory.swap_used_bytes", self.system.used_swap() as f64, None);
        for disk in self.disks.list().iter().take(DEVICES_MAX) {
            let mount = disk.mount_point().to_string_lossy();
            let usage = disk.usage();
            add("disk.available_bytes", disk.available_space() as f64, Some(("mount", &mount)));
            add("disk.read_bytes", usage.read_bytes as f64, Some(("mount", &mount)));
            add("disk.written_bytes", usage.written_bytes as f64, Some(("mount", &mount)));
        }
        let mut networks: Vec<_> = self.networks.list().iter().collect();
        networks.sort_by_key(|(name, _)| name.as_str());
        for (name, data) in networks.into_iter().take(DEVICES_MAX) {
            add("network.received_bytes", data.received() as f64, Some(("interface", name)));
            add("network.transmitted_bytes", data.transmitted() as f64, Some(("interface", name)));
        }
        if let Some(process) = self.system.process(self.pid) {
            add("process.cpu_percent", f64::from(process.cpu_usage()), Some(("process", "tidegauge")));
            add("process.memory_bytes", process.memory() as f64, Some(("process", "tidegauge")));
        }
        found
    }
}
