// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.20;

import {Reverts} from "./Reverts.sol";

interface Vm {
    function startBroadcast(uint256 privateKey) external;
    function stopBroadcast() external;
    function envUint(string calldata name) external view returns (uint256);
}

/// What `forge script` sends: one contract and two calls of it.
contract Deploy {
    Vm private constant VM = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));
    bool public constant IS_SCRIPT = true;

    function run() external returns (Reverts made) {
        VM.startBroadcast(VM.envUint("DEPLOY_KEY"));
        made = new Reverts(5);
        made.set(1, 10);
        made.set(2, 20);
        VM.stopBroadcast();
    }
}
