//! The plan as a drawing for people and as JSON for machines.

use crate::topology::hardware::{Core, Machine, Node};
use crate::topology::plan::Plan;
use serde_json::json;

/// Bytes of a GiB.
const GIB: u64 = 1 << 30;
/// Bytes of a MiB.
const MIB: u64 = 1 << 20;

/// Draws who sits where: a line for each core with a seat.
pub fn text(machine: &Machine, plan: &Plan) -> String {
    let mut drawing = String::new();
    let origin = if machine.is_this_system { "this machine" } else { "not this machine" };
    push(
        &mut drawing,
        &format!(
            "{}, {}, {} ({origin})",
            counted(machine.nodes.len(), "node"),
            counted(machine.cores(), "core"),
            counted(machine.processors(), "logical processor"),
        ),
    );
    if let Some(quota) = machine.cores_quota {
        push(&mut drawing, &format!("a cgroup grants the time of {}", counted(quota, "core")));
    }
    for node in &machine.nodes {
        push(&mut drawing, "");
        push(&mut drawing, &format!("node {}, {}", node.number, memory(node.memory_bytes)));
        draw_cores(&mut drawing, node, plan);
    }
    if !plan.notes.is_empty() {
        push(&mut drawing, "");
    }
    for note in &plan.notes {
        push(&mut drawing, &format!("note: {note}"));
    }
    drawing
}

/// Machine and plan as one JSON object.
pub fn json(machine: &Machine, plan: &Plan) -> serde_json::Value {
    json!({ "machine": machine, "seats": plan.seats, "notes": plan.notes })
}

fn draw_cores(drawing: &mut String, node: &Node, plan: &Plan) {
    let mut unseated = 0;
    for core in &node.cores {
        match sitters(core, plan) {
            Some((names, dedicated)) => {
                let mark = if dedicated { "dedicated" } else { "shared" };
                let processors = listed(&core.processors);
                let line = format!("  core {:>3}  cpu {processors:<8} {mark:<9}", core.number);
                push(drawing, &format!("{line}  {names}"));
            }
            None => unseated += 1,
        }
    }
    if unseated > 0 {
        push(drawing, &format!("  {} without a seat", counted(unseated, "core")));
    }
}

/// The seats on a core, and whether there is one alone.
fn sitters(core: &Core, plan: &Plan) -> Option<(String, bool)> {
    let seats: Vec<_> =
        plan.seats.iter().filter(|seat| core.processors.contains(&seat.core)).collect();
    let several = |stage| plan.seats(stage).count() > 1;
    let names = seats.iter().map(|seat| match several(seat.stage) {
        true => format!("{}-{}", seat.stage.name(), seat.index),
        false => seat.stage.name().to_owned(),
    });
    let names: Vec<String> = names.collect();
    let dedicated = seats.first()?.dedicated;
    Some((names.join(" "), dedicated))
}

fn listed(numbers: &[usize]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

fn memory(bytes: u64) -> String {
    if bytes >= GIB { format!("{} GiB", bytes / GIB) } else { format!("{} MiB", bytes / MIB) }
}

fn push(drawing: &mut String, line: &str) {
    drawing.push_str(line);
    drawing.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::plan::{Wants, plan};

    #[test]
    fn a_drawing_has_every_seat() {
        let machine = Machine::synthetic("node:2 core:32 pu:2").unwrap();
        let plan = plan(&machine, &Wants::default());
        let drawing = text(&machine, &plan);
        assert!(drawing.starts_with("2 nodes, 64 cores, 128 logical processors"), "{drawing}");
        for name in ["execution", "ordering", "rpc-0", "ingress-15", "archive"] {
            assert!(drawing.contains(name), "{name} is missing in\n{drawing}");
        }
        let value = json(&machine, &plan);
        assert_eq!(value["seats"].as_array().unwrap().len(), plan.seats.len());
        assert_eq!(value["machine"]["nodes"].as_array().unwrap().len(), 2);
    }
}
