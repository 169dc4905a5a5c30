//! What no stage may name, whether the target reaches the stage or not: a number that no stage has, and stages in a circle.

use std::collections::HashMap;

use super::{Evaluator, Result};
use crate::dockerfile::{Instruction, Statement};
use crate::fault::Fault;

impl Evaluator<'_> {
    /// Refuses a Dockerfile that can never be built as a whole.
    pub(super) fn refuse_circles(&self) -> Result<()> {
        let stages = &self.context.plan.stages;
        let mut named: HashMap<&str, Vec<usize>> = HashMap::new();
        for stage in stages {
            if let Some(name) = &stage.from.name {
                named.entry(name).or_default().push(stage.index);
            }
        }
        // The last of a name before the stage, or else the last of all.
        let find = |name: &str, here: usize| {
            let all = named.get(name.to_lowercase().as_str())?;
            let before = all.partition_point(|index| *index < here);
            all.get(before.wrapping_sub(1)).or(all.last()).copied()
        };
        let mut needs: Vec<Vec<(usize, &Statement)>> = Vec::with_capacity(stages.len());
        for stage in stages {
            let mut of_stage = Vec::new();
            if let Some(base) = find(&stage.from.base, stage.index).filter(|base| *base < stage.index) {
                of_stage.push((base, stage.statement));
            }
            for statement in stage.statements {
                for name in taken_from(statement) {
                    if self.is_replaced(name) {
                        continue;
                    }
                    match name.parse::<i64>().map(usize::try_from) {
                        Ok(Ok(index)) if index < stages.len() => of_stage.push((index, statement)),
                        Ok(_) => return Err(self.no_such_index(name, statement)),
                        Err(_) => of_stage.extend(find(name, stage.index).map(|index| (index, statement))),
                    }
                }
            }
            needs.push(of_stage);
        }
        let Some(circle) = circle(&needs) else { return Ok(()) };
        let (first, statement) = circle[0];
        let name = |index: usize| self.context.plan.name(index);
        let fault = if let [_] = circle[..] {
            Fault::new(format!("cannot copy from stage \"{}\" within itself", name(first)))
        } else {
            let way: Vec<String> = circle.iter().map(|(index, _)| *index).chain([first]).map(name).collect();
            Fault::new(format!("circular dependency detected on stage: {}", name(first)))
                .hint(format!("each needs the next: {}", way.join(", ")))
        };
        Err(self.fault(fault, Some(&statement.span)))
    }
}

/// Yields what an instruction takes files from.
pub(super) fn taken_from(statement: &Statement) -> impl Iterator<Item = &str> {
    let (copy, run) = match &statement.instruction {
        Instruction::Copy(copy) => (copy.from.as_deref(), &[][..]),
        Instruction::Run(run) => (None, &run.mounts[..]),
        _ => (None, &[][..]),
    };
    copy.into_iter().chain(run.iter().filter_map(|mount| mount.from.as_deref()))
}

/// Finds stages that need each other in a circle, each with the instruction that needs the next.
fn circle<'a>(needs: &[Vec<(usize, &'a Statement)>]) -> Option<Vec<(usize, &'a Statement)>> {
    let mut needed_by: Vec<Vec<usize>> = vec![Vec::new(); needs.len()];
    let mut open: Vec<usize> = Vec::with_capacity(needs.len());
    for (stage, needs) in needs.iter().enumerate() {
        needs.iter().for_each(|(index, _)| needed_by[*index].push(stage));
        open.push(needs.len());
    }
    // Stages that need nothing go, and then those that needed only them. What stays has a circle in it.
    let mut ready: Vec<usize> = (0..needs.len()).filter(|stage| open[*stage] == 0).collect();
    while let Some(stage) = ready.pop() {
        for &user in &needed_by[stage] {
            open[user] -= 1;
            if open[user] == 0 {
                ready.push(user);
            }
        }
    }
    let mut way: Vec<(usize, &Statement)> = Vec::new();
    let mut stage = (0..needs.len()).find(|stage| open[*stage] > 0)?;
    let mut at: HashMap<usize, usize> = HashMap::new();
    loop {
        if let Some(start) = at.insert(stage, way.len()) {
            return Some(way.split_off(start));
        }
        let (next, statement) = needs[stage].iter().find(|(index, _)| open[*index] > 0)?;
        way.push((stage, statement));
        stage = *next;
    }
}
